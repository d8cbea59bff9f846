// Helpers every shader may use; put in front of each source after its constants.

