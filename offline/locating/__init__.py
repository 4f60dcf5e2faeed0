"""The answer-token locator: sentence answers with known spans, token rows, fit and evaluation."""
