"""OpenAI's JSON, both ways. The only place in F1 that knows it."""
