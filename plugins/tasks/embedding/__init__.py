"""Text embedding: texts as vectors whose cosine says how near they are in meaning."""
