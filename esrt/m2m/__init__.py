"""whisperM2M and KVSPN: any language to any other on the device alone, drafted by a module that lives on the cache."""
