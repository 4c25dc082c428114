"""Summarization: the sentences of a document that say most of it, or a text that a seq2seq model writes."""
