"""What every part of the program stands on: errors, files, untrusted input, signals, the terminal, the machine."""
