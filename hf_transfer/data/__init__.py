"""From files and Hub datasets to checked splits."""
