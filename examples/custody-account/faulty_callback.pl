#!/usr/bin/perl
# faulty_callback.pl PORT MISHAPS: callback.pl, for the demonstration of what may go wrong.
#
# MISHAPS is a file. While there is one, each request takes the next word out of it:
#
#	ok		answered as always
#	500		answered by 500, and nothing done
#	lost	done as always, but the connection is closed without an answer

use strict;
use warnings;

use FindBin;

require "$FindBin::RealBin/callback.pl";

my ($port, $file) = @ARGV;
my $answer = \&answer;

sub next_mishap
{
	open my $in, '<', $file or return 'ok';
	my ($mishap, @others) = split ' ', join '', <$in>;
	close $in;
	open my $out, '>', $file or die "$file: $!";
	print $out "@others\n";
	close $out;
	return $mishap // 'ok';
}

{
	no warnings 'redefine';
	*answer = sub {
		my $mishap = next_mishap();
		return 500 if $mishap eq '500';
		my $status = $answer->(@_);
		return $mishap eq 'lost' ? undef : $status;
	};
}

serve($port);
