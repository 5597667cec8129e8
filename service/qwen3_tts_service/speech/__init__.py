"""What a request is: fields, voices, text, formats."""
