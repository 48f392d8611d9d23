"""The codec: audio to codes and back, with three autoencoders of one codebook each. It does not depend on songs or priors."""
