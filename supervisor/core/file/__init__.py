"""The service file word by word: sizes, durations, commands, names, and what each key may say. Pure."""
