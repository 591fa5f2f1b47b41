"""The journal: which predictions the service made, and what turned out to be true."""
