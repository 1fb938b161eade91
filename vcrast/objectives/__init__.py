"""What is learnt: objectives, their losses, and the EMA teacher."""
