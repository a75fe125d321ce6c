"""Make codecs: closed form, learned one, decoder alone, tables of key frames; ablations."""
