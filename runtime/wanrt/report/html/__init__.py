"""The page with its plots. Imports report, results and what is below."""
