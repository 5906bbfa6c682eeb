"""Data sets to train and to explain on: synthetic phantoms, and readers of mammograms that the user has."""
