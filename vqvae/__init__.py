"""Audio to codes and back: the codec, three separate autoencoders with a codebook each. Knows nothing of songs or priors."""
