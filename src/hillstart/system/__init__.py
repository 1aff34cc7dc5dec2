"""The base of all packages: errors, files, untrusted input, options, signals, the terminal, the machine."""
