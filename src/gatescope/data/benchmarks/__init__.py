"""One loader a benchmark."""
