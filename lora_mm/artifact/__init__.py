"""The adapter folder: its files, its card, its packed form, and its way to the Hub and back."""
