"""Tasks on texts: readers of labelled texts as distributed, and the sequences that a language model reads."""
