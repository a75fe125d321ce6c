"""What ``latentbus bench worker`` measures: questions a second of the model behind a worker."""
