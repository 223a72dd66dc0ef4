"""The JSON of OpenAI's and Anthropic's APIs, both ways. The only place in F1 that knows it."""
