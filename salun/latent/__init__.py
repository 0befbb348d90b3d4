"""What a model's features show: extraction, embeddings, distances between classes and between models."""
