"""What the routes share: a request with all that it needs, scored, checked or answered, in our form or in OpenAI's."""
