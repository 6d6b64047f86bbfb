/*
 * callbacks.h
 *		The one transaction callback of the extension.
 */
#ifndef DTX_CALLBACKS_H
#define DTX_CALLBACKS_H

/* Register it; at load time only. */
extern void callbacks_register(void);

#endif							/* DTX_CALLBACKS_H */
