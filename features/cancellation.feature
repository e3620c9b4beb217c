Feature: Clients that leave
  What is computed for them ends, what they held is free, and their neighbours notice nothing.

  Scenario: Streams that are left free their slots
    Given four endless streams
    When all streams are left
    Then all slots become idle

  Scenario Outline: A client leaves <stage> (<form>)
    Given a neighbour whose text is known
    And a client <stage> of <form>
    When it leaves
    Then it was cancelled, and nothing else was
    And the neighbour's text is what it is alone
    And no block of the cache is held

    Examples:
      | stage                   | form           |
      | that waits for the slot | a stream       |
      | that waits for the slot | a whole answer |
      | in the prompt           | a stream       |
      | in the prompt           | a whole answer |
      | in the middle           | a stream       |
      | in the middle           | a whole answer |

  Scenario: A client that stops sending its body
    When a client sends half of its body and then nothing
    Then the status is 408
    And the error says "the body came more slowly than"
