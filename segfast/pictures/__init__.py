"""Pictures as people have them: what a file's samples mean, which files a run takes, text on the answer."""
