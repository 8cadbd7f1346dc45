"""A bench's result as text, files and a page. Imports results and what is below."""
