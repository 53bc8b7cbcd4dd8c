"""What outlives a process: the journal of captured exchanges, and the store of what was understood from them."""
