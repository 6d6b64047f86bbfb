/*
 * override.h
 *		Settings that dtx overrides for the rest of a transaction.
 *
 * Every branch overrides some, and SET LOCAL would make each transaction's end
 * visit every setting of the server. The variables are set directly, and get
 * their values back when the transaction's memory is freed: that is after what
 * the transaction itself sets from then on has been undone. So this is for the
 * start of a transaction, before anything in it can have set the same; later
 * on, and where it is rare, use setting_local.
 */
#ifndef DTX_OVERRIDE_H
#define DTX_OVERRIDE_H

/* Set an integer or enum setting's variable until the transaction ends. */
extern void setting_override(int *variable, int value);

/* SET LOCAL, for when the transaction may have set the same before. */
extern void setting_local(const char *name, const char *value);

/* In a call of another node that is to register, to settle, or to tell what is in doubt here: no
 * timeout of the role or the server ends this transaction. */
extern void settings_of_settling(void);

/* In a process of dtx's own, when it has connected and not begun anything: what its
 * database or role sets and its work must not depend on. */
extern void settings_of_process(bool runs_user_code);

#endif							/* DTX_OVERRIDE_H */
