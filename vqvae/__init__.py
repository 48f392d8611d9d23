"""Codecs convert audio to streams of codes or latents, and streams to audio. They do not depend on songs or priors."""
