"""Pictures: whatever the caller has → RGB pixels; which files a run takes; fonts and legends on what it draws."""
