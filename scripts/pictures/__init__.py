"""The figures of the documentation, by subject; ``scripts/figures.py`` draws them."""
