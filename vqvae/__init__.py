"""Audio to codes and back: the codec, three autoencoders with a codebook each. Knows nothing of songs or priors."""
