"""What commands print: values in, text or JSON out; imports no torch."""
