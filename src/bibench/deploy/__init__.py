"""Shipping a network: its packed program, the file that holds it, and how both compare with the model."""
