"""klmap: maps of language models from their log-likelihoods on one fixed set of texts."""
