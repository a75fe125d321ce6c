"""What several commands write and print: files, pages of figures, texts of peers."""
