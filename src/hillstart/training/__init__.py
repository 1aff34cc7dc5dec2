"""The Lightning side of training: module, optimiser, stopping, packs, callbacks, ranks."""
