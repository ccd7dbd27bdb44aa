"""Beam search, constraints, consensus reranking and ensembles."""
