"""What each task's comparison consists of: its methods and variants, its preparation, its tables and pictures."""
