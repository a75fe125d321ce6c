"""The bundled vision-language model: trained from nothing on rendered scenes."""
