/*
 * care.h
 *		Care after a crash: a handler may have ended the server.
 *
 * Which messages were being handled then is known by the position only: some of the
 * first that are read. So after an unclean start a subscription's first messages are
 * taken one by one, and each is written down, durably, before its handler is called.
 * One that is found written down at the next start was being handled when the server
 * ended: that was an attempt. As long as no server crashes this costs nothing.
 */
#ifndef DTX_CARE_H
#define DTX_CARE_H

#include "postgres.h"

#include "msg/message.h"
#include "msg/subscription.h"

typedef struct Care
{
	int			fresh;			/* so many messages of the log are still to be taken alone */
	int			retried;		/* and so many of dtx.undelivered */
	int64		claimed;		/* the one that is written down; 0: none */
} Care;

/*
 * What a subscription's care is, at the first look in this process. Returns the message
 * during which the server ended, or 0. In a transaction, as are the other two.
 */
extern int64 care_begin(const Subscription *subscription, Care *care);

/* Write down which message is handled next. The transaction will be durable. */
extern void care_claim(const Subscription *subscription, Care *care, int64 message);

/* It was handled, or has had its attempt; or (handled false) was not called at all. In
 * the transaction that records it: should that abort, call care_claim again. */
extern void care_release(const Subscription *subscription, Care *care, bool retried, bool handled);

#endif							/* DTX_CARE_H */
