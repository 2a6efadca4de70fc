# A line server; its state is in a child process, asked by pipes.
use strict;
use IO::Socket::INET;
use IO::Handle;
pipe(my $from_parent, my $to_child);
pipe(my $from_child, my $to_parent);
$_->autoflush(1) for $to_child, $to_parent;
if (!fork) {
    my %state;
    while (my $line = <$from_parent>) {
        my ($word, $n) = split ' ', $line;
        $state{layer} = $n if $word eq 'set';
        print $to_parent 'state ', $state{layer} // 'none', "\n";
    }
    exit;
}
my $server = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $ARGV[0], Listen => 5, ReuseAddr => 1) or die;
while (my $client = $server->accept) {
    my $line = <$client>;
    next unless defined $line;
    print $to_child $line;
    print $client scalar <$from_child>;
    close $client;
}
