Feature: Request cancellation
  A client disconnects: its request ends, its blocks are released, and other requests are not affected.

  Scenario: disconnecting from a stream frees its slot
    Given four endless streams
    When the clients of all streams disconnect
    Then all slots become idle

  Scenario Outline: a disconnect cancels a request <stage> for <form> and no other request
    Given a concurrent request whose text is known
    And a request <stage> for <form>
    When that client disconnects
    Then that request is cancelled, and no other
    And the concurrent request's text is the same as alone
    And no cache block is referenced

    Examples:
      | stage        | form             |
      | in the queue | a stream         |
      | in the queue | a whole response |
      | in prefill   | a stream         |
      | in prefill   | a whole response |
      | in decode    | a stream         |
      | in decode    | a whole response |

  Scenario: a request body that stops arriving gets 408
    When a client sends part of its body and then stalls
    Then the status is 408
    And the error message contains "the body arrived more slowly than"
