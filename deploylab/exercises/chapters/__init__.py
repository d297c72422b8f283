"""One file per chapter, named after its page: checks, hints, and answers to try."""
