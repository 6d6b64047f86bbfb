/*
 * override.h
 *		Settings that dtx overrides for the rest of a transaction.
 *
 * Every branch overrides some, and SET LOCAL would make each transaction's end
 * visit every setting of the server. The variables are set directly, and get
 * their values back when the transaction's memory is freed: that is after the
 * transaction's own SET LOCALs have been undone, so the two do not mix.
 */
#ifndef DTX_OVERRIDE_H
#define DTX_OVERRIDE_H

/* Set an integer or enum setting's variable until the transaction ends. */
extern void setting_override(int *variable, int value);

#endif							/* DTX_OVERRIDE_H */
