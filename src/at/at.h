/*
 * at.h
 *		AT: the mode with an automatic undo log.
 */
#ifndef DTX_AT_H
#define DTX_AT_H

/* Register the mode; at load time only. */
extern void at_register(void);

#endif							/* DTX_AT_H */
