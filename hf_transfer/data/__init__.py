"""Reads files and Hub datasets into splits, and checks them."""
