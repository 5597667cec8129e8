"""The service as a program asks it, over HTTP and with the standard library alone."""
