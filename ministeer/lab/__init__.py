"""The laboratory: the experiments of this project and what they share. It uses the library; the library knows nothing of it."""
