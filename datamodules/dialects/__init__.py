"""Dialects: how a chat model writes thoughts and answers, and which of its tokens pair with the student's."""
