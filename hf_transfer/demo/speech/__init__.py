"""A tiny recogniser of American English, six accents to adapt it to, and the scripts that made both."""
