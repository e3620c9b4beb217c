Feature: Many at once
  Sixteen share every step, and nobody notices.

  Scenario: Sixteen together say what each says alone
    Given sixteen prompts
    When each is continued alone
    And all are continued at once
    Then the texts are the same

  Scenario: A client that leaves frees its slot
    Given four endless streams
    When all streams are left
    Then all slots become idle

  Scenario: A client that leaves before a whole answer frees its slot
    Given a client that waits for an endless answer
    When it leaves
    Then all slots become idle

  Scenario: A queue that is full says so
    Given four endless streams
    When one request more than may wait arrives
    Then the status is 429
    And the header "retry-after" is "1"
    And the answer's "error.type" is "rate_limit_error"
    When all streams are left
    Then all slots become idle
