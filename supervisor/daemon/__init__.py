"""The daemon itself: the main loop and what it needs around it. The only place where core, host and front meet."""
